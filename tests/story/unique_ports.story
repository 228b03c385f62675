# R7: bind(VIP, 0) gets a port of a block that was routed to its owner beforehand.
host a
host b
vip 192.0.2.10 any
a binds 192.0.2.10:0/tcp as -      # no block yet
a claims 192.0.2.10
b claims 192.0.2.10
a binds 192.0.2.10:0/tcp as -      # claimed, but not said to be programmed
publish 192.0.2.10
a binds 192.0.2.10:0/tcp as A
a binds 192.0.2.10:0/udp as B
b binds 192.0.2.10:0/tcp as C
a opens 192.0.2.10:80/tcp nginx
b opens 192.0.2.10:80/tcp nginx
table 192.0.2.10
    tcp A unique a
    udp B unique a
    tcp C unique b
    tcp 80 distributed a:100 b:100

# Enumerating other ports changes nothing for them (IBM PI08005).
vip 192.0.2.10 80/tcp
a binds 192.0.2.10:0/tcp as D
table 192.0.2.10
    tcp A unique a
    udp B unique a
    tcp C unique b
    tcp D unique a
    tcp 80 distributed a:100 b:100

# A definition that leaves the owner out routes nothing to it, so it hands nothing out.
vip 192.0.2.10 any b
a binds 192.0.2.10:0/tcp as -
table 192.0.2.10
    tcp C unique b
    tcp 80 distributed b:100
