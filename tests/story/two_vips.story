# Each VIP has a definition, listeners and blocks of its own.
host a
host b
vip 192.0.2.10 any
vip 192.0.2.11 80/tcp
a opens 0.0.0.0:80/tcp nginx
b opens 192.0.2.10:80/tcp nginx
b opens 192.0.2.11:8080/tcp app
table 192.0.2.10
    tcp 80 distributed b:100
table 192.0.2.11
    tcp 80 distributed a:100

a claims 192.0.2.10
publish 192.0.2.10
publish 192.0.2.11
a binds 192.0.2.11:0/tcp as -
a binds 192.0.2.10:0/tcp as A
table 192.0.2.10
    tcp 80 distributed b:100
    tcp A unique a
table 192.0.2.11
    tcp 80 distributed a:100
