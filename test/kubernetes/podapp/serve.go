// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// serve answers at all ports. The first error ends it.
func serve() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	failed := make(chan error)
	go func() {
		failed <- http.ListenAndServe(httpPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, os.Getenv("NODE_NAME"), name, r.RequestURI)
		}))
	}()
	go func() {
		failed <- http.ListenAndServe(otherPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, os.Getenv("NODE_NAME"), name, otherPort)
		}))
	}()
	go func() { failed <- serveWords(os.Getenv("NODE_NAME") + " " + name) }()
	go func() { failed <- serveEcho() }()
	go func() { failed <- serveHealth() }()
	return <-failed
}

func serveEcho() error {
	ln, err := net.Listen("tcp", echoPort)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func serveWords(answer string) error {
	conn, err := net.ListenPacket("udp", wordPort)
	if err != nil {
		return err
	}
	for {
		_, from, err := conn.ReadFrom(make([]byte, 1))
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte(answer), from); err != nil {
			return err
		}
	}
}

// serveHealth is as much of gRPC as the kubelet's probe needs: one answer in HTTP/2
// without TLS. The library would make this module's list of dependencies another one, and
// so have all of Kubernetes built anew.
func serveHealth() error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{Addr: grpcPort, Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		const serving = "\x08\x01" // HealthCheckResponse{status: SERVING}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x02"+serving) // not compressed, two bytes
		w.Header().Set("Grpc-Status", "0")
	})}
	return server.ListenAndServe()
}
