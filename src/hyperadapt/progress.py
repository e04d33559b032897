"""When progress bars show: what takes less time has none."""

SECONDS_BEFORE_PROGRESS_SHOWS = 2
