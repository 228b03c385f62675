# Nothing that was missed stays missed, and nothing stale stays, once a host has reconciled.
host a
host b
vip 192.0.2.10 any
a opens 192.0.2.10:80/tcp old
b opens 192.0.2.10:80/tcp other
a loses-records
a closes 192.0.2.10:80/tcp
a opens 192.0.2.10:443/tcp new
table 192.0.2.10
    tcp 80 distributed a:100 b:100
a reconciles
table 192.0.2.10
    tcp 80 distributed b:100
    tcp 443 distributed a:100

# The daemon is down while programs start and stop.
a loses-records
a closes 192.0.2.10:443/tcp
a opens 192.0.2.10:53/udp dns
host a
table 192.0.2.10
    tcp 80 distributed b:100
    udp 53 distributed a:100
