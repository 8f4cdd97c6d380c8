# The last element of every pipeline: writes each object that comes in as one JSON text, in ASCII.
#
# ConvertTo-Json is not used: it writes enumerations as numbers, times in a format of its own, and stops at a depth with
# the text of whatever is there. Select names properties, dotted for those of inner objects; a list on the way makes a
# list, also when it holds one element. Empty: all properties. Depth is how many levels of objects inside objects are
# written out; a deeper one is its text. Time spans are seconds, times are UTC.
param([string[]]$Select, [int]$Depth)
begin {
    $invariant = [System.Globalization.CultureInfo]::InvariantCulture
    function Format-Text([string]$Text) {
        $escaped = [regex]::Replace($Text, '[^\x20-\x7e]|["\\]', { '\u{0:x4}' -f [int][char]$args[0].Value })
        return '"' + $escaped + '"'
    }
    function Test-List($Value) {
        if ($Value -is [string]) {
            return $false
        }
        if ($Value -is [System.Collections.IDictionary]) {
            return $false
        }
        return $Value -is [System.Collections.IEnumerable]
    }
    function Format-Number([double]$Value) {
        if ([double]::IsNaN($Value)) {
            return 'null'
        }
        if ([double]::IsInfinity($Value)) {
            return 'null'
        }
        return $Value.ToString('R', $invariant)
    }
    function Format-Value($Value, [int]$Left) {
        if ($null -eq $Value) {
            return 'null'
        }
        if ($Value -is [bool]) {
            return $Value.ToString().ToLowerInvariant()
        }
        if ($Value -is [datetime]) {
            $utc = $Value.ToUniversalTime()
            return Format-Text ($utc.ToString('o', $invariant))
        }
        if ($Value -is [timespan]) {
            return Format-Number ($Value.TotalSeconds)
        }
        if (($Value -is [double]) -or ($Value -is [single])) {
            return Format-Number $Value
        }
        if (($Value -is [enum]) -or ($Value -is [string]) -or ($Value -is [char])) {
            return Format-Text ($Value.ToString())
        }
        if (($Value -is [guid]) -or ($Value -is [version]) -or ($Value -is [uri]) -or ($Value -is [ipaddress])) {
            return Format-Text ($Value.ToString())
        }
        if (($Value -is [decimal]) -or $Value.GetType().IsPrimitive) {
            return $Value.ToString($invariant)
        }
        if (Test-List $Value) {
            $items = foreach ($item in $Value) { Format-Value $item $Left }
            return '[' + ($items -join ',') + ']'
        }
        if ($Left -le 0) {
            return Format-Text ($Value.ToString())
        }
        $below = $Left - 1
        if ($Value -is [System.Collections.IDictionary]) {
            $pairs = foreach ($key in $Value.Keys) { (Format-Text $key) + ':' + (Format-Value ($Value[$key]) $below) }
            return '{' + ($pairs -join ',') + '}'
        }
        $pairs = foreach ($property in $Value.PSObject.Properties) {
            # a getter of the Hyper-V module asks WMI, and may throw for a VM that is just going away
            $inner = $null
            try { $inner = $property.Value } catch { $inner = $null }
            (Format-Text $property.Name) + ':' + (Format-Value $inner $below)
        }
        return '{' + ($pairs -join ',') + '}'
    }
    function Format-Path($Value, [string[]]$Names, [int]$Index) {
        if ($Index -ge $Names.Count) {
            return Format-Value $Value $Depth
        }
        if ($null -eq $Value) {
            return 'null'
        }
        if (Test-List $Value) {
            $items = foreach ($item in $Value) { Format-Path $item $Names $Index }
            return '[' + ($items -join ',') + ']'
        }
        $name = $Names[$Index]
        return Format-Path ($Value.$name) $Names ($Index + 1)
    }
}
process {
    if ($Select.Count -gt 0) {
        $pairs = foreach ($path in $Select) {
            (Format-Text $path) + ':' + (Format-Path $_ ($path.Split('.')) 0)
        }
        '{' + ($pairs -join ',') + '}'
    } else {
        $text = Format-Value $_ ($Depth + 1)
        if ($text[0] -ne '{') {
            $text = '{"Value":' + $text + '}'
        }
        $text
    }
}
