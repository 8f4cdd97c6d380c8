# Copies what a VM writes to its serial port from the port's pipe to a file, until the pipe is closed by the VM's end.
#
# Written beside the VM by drivers/hyperv/console.py and run there as a process of its own. When the file has grown to the
# limit it is begun anew with its last half, so that the end is always there.
param([string]$Pipe, [string]$Log, [int]$Limit = 262144)
$ErrorActionPreference = 'Stop'
$direction = [System.IO.Pipes.PipeDirection]::In
$client = New-Object System.IO.Pipes.NamedPipeClientStream('.', $Pipe, $direction)
$client.Connect(15000)
# others may read the file and remove it meanwhile
$share = [System.IO.FileShare]::ReadWrite -bor [System.IO.FileShare]::Delete
$file = New-Object System.IO.FileStream($Log, [System.IO.FileMode]::OpenOrCreate, [System.IO.FileAccess]::ReadWrite, $share)
[void]$file.Seek(0, [System.IO.SeekOrigin]::End)
$buffer = New-Object byte[] 4096
$kept = New-Object byte[] ($Limit / 2)
while (($count = $client.Read($buffer, 0, $buffer.Length)) -gt 0) {
    $file.Write($buffer, 0, $count)
    if ($file.Length -gt $Limit) {
        [void]$file.Seek(-$kept.Length, [System.IO.SeekOrigin]::End)
        [void]$file.Read($kept, 0, $kept.Length)
        $file.SetLength(0)
        $file.Write($kept, 0, $kept.Length)
    }
    $file.Flush()
}
$file.Close()
$client.Close()
