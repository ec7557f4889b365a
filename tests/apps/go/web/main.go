// Command web speaks HTTP/1.1, HTTP/2 without TLS and gRPC. `web serve` is a server of all three, on ports 8080 and 9090;
// `web ask HOST` talks to it there, and prints what a client sees.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const patience = 20 * time.Second

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		log.Fatal(serve())
	case len(os.Args) == 3 && os.Args[1] == "ask":
		ask(os.Args[2])
	default:
		log.Fatal("usage: web serve | web ask HOST")
	}
}

func serve() error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	answer := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s, %d bytes", r.Proto, len(body))
	}
	server := http.Server{Addr: ":8080", Handler: http.HandlerFunc(answer), Protocols: &protocols}
	go func() { log.Fatal(server.ListenAndServe()) }()
	listener, err := net.Listen("tcp", ":9090")
	if err != nil {
		return err
	}
	services := health.NewServer()
	services.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_SERVING)
	rpc := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(rpc, services)
	return rpc.Serve(listener)
}

func ask(host string) {
	overHTTP(host, "HTTP/1.1", func(p *http.Protocols) { p.SetHTTP1(true) })
	overHTTP(host, "HTTP/2.0", func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	overGRPC(net.JoinHostPort(host, "9090"))
	refused("http://refuse.default/")
	refused("http://no-such-service/")
}

// overHTTP fetches and uploads by one connection, and then by many at once.
func overHTTP(host, name string, speak func(*http.Protocols)) {
	var protocols http.Protocols
	speak(&protocols)
	client := http.Client{Timeout: patience, Transport: &http.Transport{Protocols: &protocols}}
	url := "http://" + net.JoinHostPort(host, "8080") + "/"
	connections := map[string]bool{}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		connections[info.Conn.LocalAddr().String()] = true
	}}
	for _, size := range []int{0, 1, 3 << 20} {
		body := strings.NewReader(strings.Repeat("x", size))
		request, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "POST", url, body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(name, said(client.Do(request)))
	}
	fmt.Println(name, "connections", len(connections))
	var all sync.WaitGroup
	answers := make(chan string, 50)
	for range cap(answers) {
		all.Go(func() { answers <- said(client.Get(url)) })
	}
	all.Wait()
	close(answers)
	counts := map[string]int{}
	for answer := range answers {
		counts[answer]++
	}
	fmt.Println(name, "at once", counts)
}

func said(response *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return response.Status + " " + string(body)
}

// overGRPC calls, is refused a name, and hears a stream until it ends it.
func overGRPC(address string) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := grpc_health_v1.NewHealthClient(connection)
	var far peer.Peer
	answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"}, grpc.Peer(&far))
	fmt.Println("gRPC", answer.GetStatus(), err, far.Addr)
	_, err = client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nothing"})
	fmt.Println("gRPC", status.Code(err))
	stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	first, err := stream.Recv()
	fmt.Println("gRPC stream", first.GetStatus(), err)
	cancel()
	_, err = stream.Recv()
	fmt.Println("gRPC stream", status.Code(err))
}

// refused says what a program can find out about an error: its kind, not the words, which name ports.
func refused(url string) {
	client := http.Client{Timeout: patience}
	_, err := client.Get(url)
	kinds := []string{}
	var name *net.DNSError
	if errors.As(err, &name) {
		kinds = append(kinds, fmt.Sprintf("DNSError not found %t timeout %t", name.IsNotFound, name.IsTimeout))
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		kinds = append(kinds, errno.Error())
	}
	sort.Strings(kinds)
	fmt.Println(url, kinds)
}
