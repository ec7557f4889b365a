// Command sample is the application of the test cluster: small servers, each of which does one thing that a client
// can check byte by byte. `sample NAME=PORT...` runs the named servers, each on its port and on every address of
// both families, until SIGTERM.
package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// servers maps a name to what listens under it; each returns only when it cannot go on.
var servers = map[string]func(address string) error{
	"http":     serveHTTP,
	"tcp-echo": func(address string) error { return serveTCP(address, echo) },
	"talker":   func(address string) error { return serveTCP(address, talkFirst) },
	"digest":   func(address string) error { return serveTCP(address, digestAfterEOF) },
	"resetter": func(address string) error { return serveTCP(address, reset) },
	"udp-echo": serveUDPEcho,
}

func main() {
	log.SetFlags(log.LUTC | log.Ldate | log.Lmicroseconds)
	if len(os.Args) < 2 {
		usage("nothing to serve")
	}
	failed := make(chan error)
	for _, argument := range os.Args[1:] {
		name, port, found := strings.Cut(argument, "=")
		serve, known := servers[name]
		if !found || !known {
			usage(fmt.Sprintf("%q is not NAME=PORT", argument))
		}
		go func() { failed <- fmt.Errorf("%s on port %s: %w", name, port, serve(":"+port)) }()
		log.Printf("%s listens on port %s", name, port)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		log.Fatal(err)
	case s := <-signals:
		log.Printf("ends on %s", s)
	}
}

func usage(problem string) {
	names := []string{}
	for name := range servers {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "sample: %s; usage: sample NAME=PORT..., NAME one of: %s\n", problem, strings.Join(names, " "))
	os.Exit(64)
}
