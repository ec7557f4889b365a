// Command quic is an HTTP/3 server on the UDP address of its one argument, with a certificate of its own making: GET
// /bytes/N answers with N bytes, the i-th of which is i modulo 251. It says `ready` when it can be asked.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/quic-go/quic-go/http3"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: quic ADDRESS")
	}
	socket, err := net.ListenPacket("udp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := ownCertificate()
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{count}", func(w http.ResponseWriter, r *http.Request) {
		count, err := strconv.Atoi(r.PathValue("count"))
		if err != nil || count < 0 || count > 1<<30 {
			http.Error(w, "no such number of bytes", http.StatusBadRequest)
			return
		}
		body := make([]byte, count)
		for i := range body {
			body[i] = byte(i % 251)
		}
		w.Header().Set("Content-Length", strconv.Itoa(count))
		_, _ = w.Write(body)
	})
	server := http3.Server{
		Handler:   mux,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
	}
	fmt.Println("ready")
	log.Fatal(server.Serve(socket))
}

// ownCertificate is good for a client that does not look at who signed it.
func ownCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"quic"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(10 * 365 * 24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key}, nil
}
