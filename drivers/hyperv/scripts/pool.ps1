# Runs pipelines in a runspace pool: one pipeline that is kept, whose input objects are requests of answer.ps1 and whose
# output objects are the answers.
begin {
    # include answer
}
process {
    Get-Answer $_
}
