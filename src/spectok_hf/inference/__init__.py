"""From spectra to answers: what models say, of lists, tables, and any number of files."""
