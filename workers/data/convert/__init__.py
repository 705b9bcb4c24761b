"""From lines of text to Parquet: Criteo's logs, files of ratings, CSV and TSV.

sources.py      which files, and their lines in blocks
layouts.py      what the columns of a line are
parsing.py      a block of lines as a table; bad lines named
parts.py        tables as Parquet files with even row groups
manifest.py     what is done, so that a conversion that was ended goes on
conversion.py   all of it, in bounded memory
joining.py      side tables put beside the rows of a data set
"""

from workers.data.convert.conversion import Converted, Settings, convert

__all__ = ["Converted", "Settings", "convert"]
