// Command filter shows which of several programs gets which request. `filter serve NAME ADDRESS` is a program that answers
// with its name, by HTTP/1.1, HTTP/2 without TLS and gRPC on one port. `filter ask HOST:PORT USER...` sends requests of all
// these users mixed, and prints who answered whom. `filter follow HOST:PORT USER` asks again and again by one connection of
// each kind, and prints who answers each time that this changes, until its standard input ends.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

const (
	patience = 50 * time.Second
	rounds   = 30
	header   = "X-User"
)

func main() {
	switch args := os.Args; {
	case len(args) == 4 && args[1] == "serve":
		log.Fatal(serve(args[2], args[3]))
	case len(args) > 3 && args[1] == "ask":
		time.AfterFunc(patience, func() { log.Fatal("no end") })
		overHTTP("HTTP/1.1", args[2], args[3:], func(p *http.Protocols) { p.SetHTTP1(true) })
		pipelined(args[2], args[3:])
		overHTTP("HTTP/2.0", args[2], args[3:], func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
		overGRPC(args[2], args[3:])
	case len(args) == 4 && args[1] == "follow":
		var over sync.WaitGroup
		ended := make(chan struct{})
		over.Go(func() { follow("HTTP/1.1", args[2], args[3], ended, func(p *http.Protocols) { p.SetHTTP1(true) }) })
		over.Go(func() {
			follow("HTTP/2.0", args[2], args[3], ended, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
		})
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
		over.Wait()
	default:
		log.Fatal("usage: filter serve NAME ADDRESS | filter ask|follow HOST:PORT USER...")
	}
}

func serve(name, address string) error {
	services := health.NewServer()
	services.SetServingStatus(name, grpc_health_v1.HealthCheckResponse_SERVING)
	rpc := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(rpc, services)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	answer := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		count, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %d %v %s", name, r.Proto, count, err, r.Trailer.Get("Sum"))
	}
	return (&http.Server{Addr: address, Handler: http.HandlerFunc(answer), Protocols: &protocols}).ListenAndServe()
}

// whose is who should answer a user.
func whose(user string) string {
	if user == "nobody" {
		return "app"
	}
	return user
}

func transport(speak func(*http.Protocols)) *http.Transport {
	var protocols http.Protocols
	speak(&protocols)
	return &http.Transport{Protocols: &protocols, MaxConnsPerHost: 1}
}

// counts is what was answered, by who answered whom.
type counts struct {
	sync.Mutex
	answers     map[string]int
	connections map[string]bool
}

func newCounts() *counts {
	return &counts{answers: map[string]int{}, connections: map[string]bool{}}
}

func (c *counts) add(user, name string) {
	c.Lock()
	defer c.Unlock()
	if name == whose(user) {
		c.answers[name]++
	} else {
		c.answers[fmt.Sprintf("%s answered %s", name, user)]++
	}
}

func (c *counts) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		c.Lock()
		defer c.Unlock()
		c.connections[info.Conn.LocalAddr().String()] = true
	}})
}

// overHTTP asks for all users at once by one connection, with bodies of every kind.
func overHTTP(name, address string, users []string, speak func(*http.Protocols)) {
	client := http.Client{Transport: transport(speak)}
	seen := newCounts()
	var all sync.WaitGroup
	for _, user := range users {
		all.Go(func() {
			for round := range rounds {
				size := []int{0, 10, 100_000}[round%3]
				request, err := http.NewRequestWithContext(seen.traced(context.Background()), "POST", "http://"+address+"/", nil)
				if err != nil {
					log.Fatal(err)
				}
				request.Header.Set(header, user)
				body := strings.NewReader(strings.Repeat("x", size))
				request.Body, request.ContentLength = io.NopCloser(body), int64(size)
				sum := ""
				if round%2 == 0 {
					request.ContentLength, sum = -1, "7"
					request.Trailer = http.Header{"Sum": {sum}}
				}
				answer := said(client.Do(request))
				who, rest, _ := strings.Cut(answer, " ")
				if rest != fmt.Sprintf("%s %d <nil> %s", name, size, sum) {
					who = answer
				}
				seen.add(user, who)
			}
		})
	}
	all.Wait()
	fmt.Println(name, seen.answers, "connections", len(seen.connections))
}

// pipelined sends all requests before it reads an answer.
func pipelined(address string, users []string) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	var asked strings.Builder
	for range rounds {
		for _, user := range users {
			_, _ = fmt.Fprintf(&asked, "GET / HTTP/1.1\r\nHost: x\r\nx-USER:  %s \r\n\r\n", user)
		}
	}
	if _, err := io.WriteString(connection, asked.String()); err != nil {
		log.Fatal(err)
	}
	seen, reader := newCounts(), bufio.NewReader(connection)
	for range rounds {
		for _, user := range users {
			who, _, _ := strings.Cut(said(http.ReadResponse(reader, nil)), " ")
			seen.add(user, who)
		}
	}
	fmt.Println("pipelined", seen.answers)
}

// overGRPC has a stream open for each user while it calls for all of them.
func overGRPC(address string, users []string) {
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	client, seen := grpc_health_v1.NewHealthClient(connection), newCounts()
	streams := map[string]string{}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, user := range users {
		ask := &grpc_health_v1.HealthCheckRequest{Service: whose(user)}
		stream, err := client.Watch(metadata.AppendToOutgoingContext(ctx, header, user), ask)
		if err != nil {
			log.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil {
			log.Fatal(err)
		}
		streams[user] = first.GetStatus().String()
	}
	for range rounds {
		for _, user := range users {
			who := whose(user)
			ask := &grpc_health_v1.HealthCheckRequest{Service: who}
			if _, err := client.Check(metadata.AppendToOutgoingContext(ctx, header, user), ask); err != nil {
				who = err.Error()
			}
			seen.add(user, who)
		}
	}
	fmt.Println("gRPC", seen.answers, "streams", streams)
}

// follow asks by one connection, and says who answers when that changes.
func follow(name, address, user string, ended <-chan struct{}, speak func(*http.Protocols)) {
	client := http.Client{Transport: transport(speak), Timeout: patience}
	seen, last := newCounts(), ""
	for {
		request, err := http.NewRequestWithContext(seen.traced(context.Background()), "GET", "http://"+address+"/", nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set(header, user)
		who, _, _ := strings.Cut(said(client.Do(request)), " ")
		if who != last {
			fmt.Println(name, who)
			last = who
		}
		select {
		case <-ended:
			fmt.Println(name, "connections", len(seen.connections))
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
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
	return string(body)
}
