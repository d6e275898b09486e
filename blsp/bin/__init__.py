"""The programs, one a stage: what run.sh calls as `python -m blsp.bin.NAME`."""
