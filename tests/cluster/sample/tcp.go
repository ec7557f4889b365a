package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

// serveTCP hands each connection to its own goroutine, and closes it when that is done with it.
func serveTCP(address string, handle func(*net.TCPConn) error) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			if err := handle(connection.(*net.TCPConn)); err != nil {
				log.Printf("%s: %v", connection.RemoteAddr(), err)
			}
		}()
	}
}

// echo sends back what comes; the client's end of data becomes ours only after all was sent back.
func echo(connection *net.TCPConn) error {
	// Read and Write by hand: io.Copy would splice, and leave no buffer between the two directions.
	buffer := make([]byte, chunk)
	for {
		n, err := connection.Read(buffer)
		if n > 0 {
			if _, err := connection.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return connection.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// talkFirst greets before the client has said a word, as SSH, SMTP and MySQL servers do, then echoes.
func talkFirst(connection *net.TCPConn) error {
	hostname, _ := os.Hostname()
	if _, err := fmt.Fprintf(connection, "220 %s talks first\r\n", hostname); err != nil {
		return err
	}
	return echo(connection)
}

// digestAfterEOF answers only after the client closed its writing side: count and SHA-256 of all it sent.
func digestAfterEOF(connection *net.TCPConn) error {
	hash := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{hash}, struct{ io.Reader }{connection}, make([]byte, chunk))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(connection, "%d %s\n", n, hex.EncodeToString(hash.Sum(nil)))
	return err
}

// reset reads one byte, then ends the connection by RST.
func reset(connection *net.TCPConn) error {
	if _, err := connection.Read(make([]byte, 1)); err != nil {
		return err
	}
	return connection.SetLinger(0)
}
