"""What a report reads: a study's files, or runs that were not one study, as one `Study`."""
