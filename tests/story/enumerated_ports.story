# R3: ports enumerated. The wildcard counts on them, and nothing counts elsewhere.
host a
host b
host c
vip 192.0.2.10 80/tcp,53/udp

a opens 192.0.2.10:80/tcp nginx
b opens 0.0.0.0:80/tcp nginx
c opens [::]:80/tcp nginx
table 192.0.2.10
    tcp 80 distributed a:100 b:100 c:100

# An IPv6 wildcard that takes no IPv4 does not, nor does the wrong protocol or port.
c closes [::]:80/tcp
c opens [::]:80/tcp nginx v6only
a opens 192.0.2.10:53/tcp dns
a opens 192.0.2.10:8080/tcp nginx
b opens 0.0.0.0:22/tcp sshd
b opens 0.0.0.0:53/udp dns
table 192.0.2.10
    tcp 80 distributed a:100 b:100
    udp 53 distributed b:100
