# A change re-evaluates what listens already, with no restart of anything.
host a
host b
vip 192.0.2.10 any
a opens 192.0.2.10:80/tcp nginx
a opens 192.0.2.10:9000/tcp app
b opens 0.0.0.0:80/tcp nginx
b opens 0.0.0.0:22/tcp sshd
table 192.0.2.10
    tcp 80 distributed a:100
    tcp 9000 distributed a:100

vip 192.0.2.10 80/tcp round-robin
table 192.0.2.10
    tcp 80 distributed a:100 b:100

vip 192.0.2.10 22,80/tcp
table 192.0.2.10
    tcp 22 distributed b:100
    tcp 80 distributed a:100 b:100

vip 192.0.2.10 22,80/tcp hash b
table 192.0.2.10
    tcp 22 distributed b:100
    tcp 80 distributed b:100

vip 192.0.2.10 any
table 192.0.2.10
    tcp 80 distributed a:100
    tcp 9000 distributed a:100
