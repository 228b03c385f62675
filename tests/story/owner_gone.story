# A dead host's block stays its own until the quarantine is over; nobody else gets its ports.
host a
host b
vip 192.0.2.10 any
a claims 192.0.2.10
publish 192.0.2.10
a binds 192.0.2.10:0/tcp as A
table 192.0.2.10
    tcp A unique a
a crashes
table 192.0.2.10
b claims 192.0.2.10
publish 192.0.2.10
b binds 192.0.2.10:0/tcp as B
table 192.0.2.10
    tcp B unique b
host a
a binds 192.0.2.10:0/tcp as C
table 192.0.2.10
    tcp B unique b
    tcp C unique a
