"""Training data: the registry of data sets, readers for a user's own files, and the checks of every row.

`em data list` prints the registry. A row is `{"messages": [{"role": …, "content": …}, …]}`, or has one
of the layouts in `em.data.layouts`.
"""

from em.data.files import read_messages
from em.data.rows import BUNDLED, find_data_file, load_rows, write_training_rows

__all__ = ["BUNDLED", "find_data_file", "load_rows", "read_messages", "write_training_rows"]
