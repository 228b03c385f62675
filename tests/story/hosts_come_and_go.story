# Crash, drain, return, and a distributor that restarts or is replaced in between.
host a
host b
vip 192.0.2.10 any
a opens 192.0.2.10:80/tcp nginx
b opens 192.0.2.10:80/tcp nginx
host c
c opens 192.0.2.10:80/tcp nginx
table 192.0.2.10
    tcp 80 distributed a:100 b:100 c:100

b drains
table 192.0.2.10
    tcp 80 distributed a:100 c:100

a crashes
takeover
table 192.0.2.10
    tcp 80 distributed c:100

host a 50
distributor-restarts
table 192.0.2.10
    tcp 80 distributed c:100
a opens 192.0.2.10:80/tcp nginx
host b
table 192.0.2.10
    tcp 80 distributed a:50 b:100 c:100
