# R2, R5, R8: ports not enumerated. What binds the VIP counts, whatever its port.
host a
host b 200
host c
vip 192.0.2.10 any

a opens 192.0.2.10:8080/tcp nginx
b opens 192.0.2.10:8080/tcp nginx
c opens 192.0.2.10:5353/udp dns
b opens 192.0.2.10:17/udp quote
table 192.0.2.10
    tcp 8080 distributed a:100 b:200
    udp 5353 distributed c:100
    udp 17 distributed b:200

# Every host's sshd and its like stay private (kubernetes #72236, metallb #787).
a opens 0.0.0.0:22/tcp sshd
b opens [::]:22/tcp sshd
c opens 10.0.0.3:22/tcp sshd
table 192.0.2.10
    tcp 8080 distributed a:100 b:200
    udp 5353 distributed c:100
    udp 17 distributed b:200

# The same port number of the other protocol is another port.
c opens 192.0.2.10:8080/udp quic
a closes 192.0.2.10:8080/tcp
c closes 192.0.2.10:5353/udp
table 192.0.2.10
    tcp 8080 distributed b:200
    udp 8080 distributed c:100
    udp 17 distributed b:200
