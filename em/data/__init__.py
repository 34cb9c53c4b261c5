"""Training data: the sets that em knows, readers for a user's own, and what is checked of every row.

`em data list` prints the registry. A row is `{"messages": [{"role": …, "content": …}, …]}`, or one of the
layouts in `em.data.layouts`.
"""

from em.data.files import read_messages
from em.data.rows import BUNDLED, data_file, load_rows, write_rows

__all__ = ["BUNDLED", "data_file", "load_rows", "read_messages", "write_rows"]
