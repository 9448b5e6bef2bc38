"""Reading, writing, resampling and analysing waves."""
