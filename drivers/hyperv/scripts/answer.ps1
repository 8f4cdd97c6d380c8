# Answers requests to run pipelines: what dispatch.ps1 and pool.ps1 have in common. A request is a JSON text, and so is its
# answer:
#
#   {"define": NAME, "text": SCRIPT}                          remembers a script of the project; no answer
#   {"id": N, "pipeline": [{"cmdlet": C, "parameters": {}}]}  or {"script": NAME, ...} for an element
#   answer: {"id": N, "ok": true, "warnings": [], "objects": []}
#   or      {"id": N, "ok": false, "warnings": [], "error": {"message", "id", "category", "hresult", "exception"}}
#
# The last element is shape.ps1, which writes each object as one JSON text. Every request is bound by AddCommand and
# AddParameter, so no value is ever part of a script.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$scripts = @{}
# a runspace of its own, kept, so that the Hyper-V module is loaded once
$space = [RunspaceFactory]::CreateRunspace()
$space.Open()
$space.SessionStateProxy.SetVariable('ProgressPreference', 'SilentlyContinue')
$space.SessionStateProxy.SetVariable('ConfirmPreference', 'None')
# what ConvertFrom-Json makes of an object becomes the hashtable that a parameter wants
function ConvertTo-Argument($Value) {
    if ($Value -is [System.Management.Automation.PSCustomObject]) {
        $table = @{}
        foreach ($item in $Value.PSObject.Properties) {
            $table[$item.Name] = ConvertTo-Argument $item.Value
        }
        return $table
    }
    if ($Value -is [array]) {
        return , @(foreach ($item in $Value) { ConvertTo-Argument $item })
    }
    return $Value
}
function Get-Answer([string]$Line) {
    $request = ConvertFrom-Json -InputObject $Line
    if ($null -ne $request.define) {
        $scripts[$request.define] = $request.text
        return
    }
    $shell = [PowerShell]::Create()
    $shell.Runspace = $space
    $texts = @()
    $record = $null
    try {
        foreach ($step in $request.pipeline) {
            if ($null -ne $step.script) {
                [void]$shell.AddScript($scripts[$step.script], $true)
            } else {
                [void]$shell.AddCommand($step.cmdlet, $true)
            }
            foreach ($item in $step.parameters.PSObject.Properties) {
                [void]$shell.AddParameter($item.Name, (ConvertTo-Argument $item.Value))
            }
        }
        $texts = $shell.Invoke()
        if ($shell.Streams.Error.Count -gt 0) {
            $record = $shell.Streams.Error[0]
        }
    } catch {
        # Invoke wraps what the pipeline threw
        $record = $_
        if ($null -ne $_.Exception.InnerException.ErrorRecord) {
            $record = $_.Exception.InnerException.ErrorRecord
        }
    }
    $answer = @{
        id = $request.id
        ok = ($null -eq $record)
        warnings = [string[]]@($shell.Streams.Warning)
    }
    if ($null -ne $record) {
        $answer.error = @{
            message = [string]$record
            id = $record.FullyQualifiedErrorId
            category = [string]$record.CategoryInfo.Category
            hresult = $record.Exception.HResult
            exception = $record.Exception.GetType().FullName
        }
    }
    $shell.Dispose()
    $json = ConvertTo-Json -InputObject $answer -Compress -Depth 4
    if ($null -eq $record) {
        $json = $json.Substring(0, $json.Length - 1) + ',"objects":[' + ($texts -join ',') + ']}'
    }
    # ASCII only, so that no code page on the way can harm a name
    $json = [regex]::Replace($json, '[^\x20-\x7e]', { '\u{0:x4}' -f [int][char]$args[0].Value })
    return $json
}
