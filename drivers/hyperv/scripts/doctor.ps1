# Says what a Hyper-V host has of what the driver needs; changes nothing. An object for each check: Check, Ok, Detail.
#
# Wanted: for each cmdlet the parameters that the driver uses, by the cmdlet's name. Others: addresses of the other hosts.
param([hashtable]$Wanted, [string[]]$Switches, [string[]]$Folders, [string[]]$Others)
$ErrorActionPreference = 'Stop'
function Format-Check([string]$Check, [bool]$Ok, [string]$Detail) {
    return [pscustomobject]@{ Check = $Check; Ok = $Ok; Detail = $Detail }
}
$version = $PSVersionTable.PSVersion
Format-Check 'powershell' ($version -ge [version]'5.1') ([string]$version)
$service = Get-Service -Name 'vmms' -ErrorAction SilentlyContinue
Format-Check 'vmms' ($service.Status -eq 'Running') ([string]$service.Status)
$missing = @(foreach ($name in $Wanted.Keys) {
    $found = Get-Command -Name $name -ErrorAction SilentlyContinue
    if ($null -eq $found) {
        $name
    } else {
        foreach ($parameter in $Wanted[$name]) {
            if (-not $found.Parameters.ContainsKey($parameter)) {
                $name + ' -' + $parameter
            }
        }
    }
})
Format-Check 'cmdlets' ($missing.Count -eq 0) ($missing -join ', ')
$settings = Get-VMHost -ErrorAction SilentlyContinue
Format-Check 'rights' ($null -ne $settings) ''
$default = Get-VMHostSupportedVersion -Default -ErrorAction SilentlyContinue
Format-Check 'version' ($null -ne $default) ([string]$default.Version)
foreach ($name in $Switches) {
    $found = Get-VMSwitch -ErrorAction SilentlyContinue | Where-Object -Property Name -EQ -Value $name
    Format-Check 'switch' ($null -ne $found) $name
}
foreach ($folder in $Folders) {
    Format-Check 'folder' (Test-Path -LiteralPath $folder) $folder
}
$ways = [string]$settings.VirtualMachineMigrationAuthenticationType
Format-Check 'migration' ([bool]$settings.VirtualMachineMigrationEnabled) $ways
foreach ($address in $Others) {
    $tried = Test-NetConnection -ComputerName $address -Port 6600 -WarningAction SilentlyContinue
    Format-Check 'link' ([bool]$tried.TcpTestSucceeded) $address
}
