package main

import "net"

// serveUDPEcho sends every datagram back to where it came from, an empty one too.
func serveUDPEcho(address string) error {
	connection, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	buffer := make([]byte, 65535)
	for {
		n, peer, err := connection.ReadFrom(buffer)
		if err != nil {
			return err
		}
		// One client that cannot be answered (its address is gone) must not end the service for all.
		_, _ = connection.WriteTo(buffer[:n], peer)
	}
}
