"""Things that observe a run, one file each."""
