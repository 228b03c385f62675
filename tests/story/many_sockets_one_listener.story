# R4: SO_REUSEPORT groups and forked servers are one listener until the last socket closes.
host a
host b
vip 192.0.2.10 80/tcp
a opens 192.0.2.10:80/tcp worker1
a opens 192.0.2.10:80/tcp worker2
a opens 0.0.0.0:80/tcp worker3
table 192.0.2.10
    tcp 80 distributed a:100
a closes 192.0.2.10:80/tcp
a closes 192.0.2.10:80/tcp
table 192.0.2.10
    tcp 80 distributed a:100
# What is left is a wildcard: it does not count once ports are not enumerated.
vip 192.0.2.10 any
table 192.0.2.10
vip 192.0.2.10 80/tcp
a closes 0.0.0.0:80/tcp
table 192.0.2.10
