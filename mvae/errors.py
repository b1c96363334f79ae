"""The errors this package raises on bad input. Each message says what was found, what was expected, what to do."""


class DataError(ValueError):
    """Ratings that cannot be read, fetched or split as asked."""
