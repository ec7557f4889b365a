// Command plain uses the network by Go's own package `net` in the ways that there are, and prints what it is told: one
// line a step, the same wherever the network is the same.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const patience = 20 * time.Second

func main() {
	names()
	for _, family := range []string{"4", "6"} {
		streams("tcp" + family)
		datagrams("udp" + family)
	}
	fmt.Println("v6only", fetch("tcp", "v6only:80"))
	atOnce()
}

// told is what a program can make out of an error.
func told(err error) string {
	var name *net.DNSError
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &name):
		return fmt.Sprintf("DNSError not found %t, timeout %t", name.IsNotFound, name.IsTimeout)
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	}
	return err.Error()
}

func names() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resolver := net.DefaultResolver
	for _, name := range []string{"backend", "backend.default.svc.cluster.local", "external", "no-such-service", "localhost"} {
		found, err := resolver.LookupHost(ctx, name)
		slices.Sort(found)
		fmt.Println("host", name, found, told(err))
	}
	texts, err := resolver.LookupTXT(ctx, "text.test")
	fmt.Println("TXT", texts, told(err))
	canonical, services, err := resolver.LookupSRV(ctx, "web", "tcp", "test")
	fmt.Println("SRV", canonical, len(services), told(err))
	alias, err := resolver.LookupCNAME(ctx, "alias.test")
	fmt.Println("CNAME", alias, told(err))
	// Longer than a datagram may be: asked again over TCP.
	long, err := resolver.LookupTXT(ctx, "many.test")
	fmt.Println("long TXT", len(long), told(err))
}

// fetch prints who is at both ends, but for the port that the kernel chose.
func fetch(network, address string) string {
	connection, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return told(err)
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprint(connection, "GET / HTTP/1.0\r\n\r\n")
	status, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return told(err)
	}
	own, _, _ := net.SplitHostPort(connection.LocalAddr().String())
	return fmt.Sprint(strings.TrimSpace(status), " from ", connection.RemoteAddr(), " by ", own)
}

func streams(network string) {
	for _, address := range []string{"backend:80", "refuse:80", "unreachable:80", "netunreachable:80", "no-such-service:80"} {
		fmt.Println(network, address, fetch(network, address))
	}
	_, err := net.DialTimeout(network, "blackhole:80", time.Second)
	var timeout net.Error
	fmt.Println(network, "blackhole timeout", errors.As(err, &timeout) && timeout.Timeout())
	connection, err := net.DialTimeout(network, "resetter:10", patience)
	if err != nil {
		fmt.Println(network, "resetter", told(err))
		return
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(patience))
	_, _ = connection.Write([]byte("x"))
	_, err = connection.Read(make([]byte, 1))
	fmt.Println(network, "resetter", told(err))
}

// datagrams are sent by a connected socket and by one that is not, and to a port that is closed.
func datagrams(network string) {
	answer := make([]byte, 100)
	for _, address := range []string{"udp-echo:7", "refuse:80"} {
		connection, err := net.DialTimeout(network, address, patience)
		if err != nil {
			fmt.Println(network, address, told(err))
			continue
		}
		_ = connection.SetDeadline(time.Now().Add(patience))
		_, sent := connection.Write([]byte("connected"))
		count, err := connection.Read(answer)
		fmt.Println(network, address, told(sent), string(answer[:count]), told(err))
		_ = connection.Close()
	}
	socket, err := net.ListenPacket(network, ":0")
	if err != nil {
		fmt.Println(network, told(err))
		return
	}
	defer func() { _ = socket.Close() }()
	to, err := net.ResolveUDPAddr(network, "udp-echo:7")
	if err != nil {
		fmt.Println(network, told(err))
		return
	}
	_ = socket.SetDeadline(time.Now().Add(patience))
	_, sent := socket.WriteTo([]byte("not connected"), to)
	count, from, err := socket.ReadFrom(answer)
	fmt.Println(network, told(sent), string(answer[:count]), from, told(err))
}

func atOnce() {
	var all sync.WaitGroup
	answers := make(chan string, 50)
	for range cap(answers) {
		all.Go(func() { answers <- fetch("tcp4", "backend:80") })
	}
	all.Wait()
	close(answers)
	counts := map[string]int{}
	for answer := range answers {
		counts[answer]++
	}
	fmt.Println("at once", counts)
}
