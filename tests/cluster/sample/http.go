package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// chunk is how much is read or written at a time: large enough that the network is the limit.
const chunk = 128 << 10

// serveHTTP answers requests about this pod and moves bytes both ways; connections are kept alive.
func serveHTTP(address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", whoAmI)
	mux.HandleFunc("GET /bytes", giveBytes)
	mux.HandleFunc("PUT /echo", echoBody)
	mux.HandleFunc("PUT /sink", sinkBody)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /env", environment)
	mux.HandleFunc("GET /status", status)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return (&http.Server{Addr: address, Handler: mux}).ListenAndServe()
}

// whoAmI says which service and pod answered and where the request came from, one `key=value` a line.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	hostname, _ := os.Hostname()
	fmt.Fprintf(w, "service=%s\npod=%s\npeer=%s\nhost=%s\n", os.Getenv("SERVICE"), hostname, r.RemoteAddr, r.Host)
}

// giveBytes streams the first n bytes of the sequence whose byte at offset i is i modulo 251: a prime, so that a
// lost or doubled block of any power of two shows.
func giveBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	if err != nil || n < 0 {
		http.Error(w, "n: how many bytes", http.StatusBadRequest)
		return
	}
	const period = 251
	pattern := make([]byte, chunk+period)
	for i := range pattern {
		pattern[i] = byte(i % period)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	for sent := int64(0); sent < n; {
		start := sent % period
		size := min(n-sent, chunk)
		if _, err := w.Write(pattern[start : start+size]); err != nil {
			return
		}
		sent += size
	}
}

// echoBody sends the body back while it still comes in: neither side waits for the other's end.
func echoBody(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ProtoMajor == 1 {
		if err := control.EnableFullDuplex(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	buffer := make([]byte, chunk)
	for {
		n, err := r.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			if err := control.Flush(); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// sinkBody answers how many bytes came and their SHA-256.
func sinkBody(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{hash}, r.Body, make([]byte, chunk))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d %s\n", n, hex.EncodeToString(hash.Sum(nil)))
}

// slow answers after ms milliseconds, unless the client has gone by then.
func slow(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.FormValue("ms"))
	if err != nil || ms < 0 {
		http.Error(w, "ms: how many milliseconds", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		fmt.Fprintf(w, "after %d ms\n", ms)
	case <-r.Context().Done():
	}
}

// environment answers the value of this container's variable `name`, so that a case can ask the pod itself.
func environment(w http.ResponseWriter, r *http.Request) {
	value, set := os.LookupEnv(r.FormValue("name"))
	if !set {
		http.Error(w, "not set", http.StatusNotFound)
		return
	}
	io.WriteString(w, value)
}

// status answers with the status code that was asked for.
func status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "code: 200 to 599", http.StatusBadRequest)
		return
	}
	w.WriteHeader(code)
}
