"""The aggregation schemes, by what they are after."""
