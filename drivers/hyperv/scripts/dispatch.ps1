# Runs pipelines for one WinRM shell: a request of answer.ps1 a line on standard input, its answer a line on standard output.
#
# It is started with -InputFormat None, since otherwise the console host reads the same standard input for itself. Sent
# without comments and indentation, as -EncodedCommand: that has to stay below cmd.exe's 8191 characters, a test holds it.
# include answer
$encoding = New-Object System.Text.UTF8Encoding($false)
$reader = New-Object System.IO.StreamReader([Console]::OpenStandardInput(), $encoding)
$writer = New-Object System.IO.StreamWriter([Console]::OpenStandardOutput(), $encoding)
while ($null -ne ($line = $reader.ReadLine())) {
    $answer = Get-Answer $line
    if ($null -ne $answer) {
        $writer.WriteLine($answer)
        $writer.Flush()
    }
}
