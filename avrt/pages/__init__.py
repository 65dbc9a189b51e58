"""HTML pages that open from the disk, without a server or a network: tables, plots, a list of items, their clips."""
