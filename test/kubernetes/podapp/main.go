// SPDX-License-Identifier: Apache-2.0

// Command podapp is what test pods run: a server, and clients that tell how it goes, for
// kubectl exec and kubectl logs.
//
//	podapp                   answers at the ports below
//	podapp get URL           prints what a URL answers
//	podapp load URL...       asks one URL after the other, each time in a new connection,
//	                         and prints a tally each second
//	podapp hold ADDRESS WORD says WORD in a connection ten times a second, waits for the
//	                         echo, and prints a tally each second
//	podapp ask TIMES PAUSE tcp|udp ADDRESS
//	                         asks an address again and again, and prints what became of each
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// The ports at which podapp answers.
const (
	httpPort  = ":8080" // each request with the names of its node and its pod, and the request's URI
	echoPort  = ":8081" // each byte with itself
	grpcPort  = ":8082" // gRPC's health checks, with "serving"
	otherPort = ":8083" // each request with the names of its node and its pod, and this port
	wordPort  = ":8080" // of UDP: each datagram with the names of its node and its pod
)

func main() {
	do, args := serve, os.Args[1:]
	if len(args) > 0 {
		switch name := args[0]; {
		case name == "get" && len(args) == 2:
			do = func() error { return get(args[1]) }
		case name == "load" && len(args) > 1:
			do = func() error { return load(args[1:]) }
		case name == "hold" && len(args) == 3:
			do = func() error { return hold(args[1], args[2]) }
		case name == "ask" && len(args) == 5:
			do = func() error { return askMany(args[1], args[2], args[3], args[4]) }
		default:
			do = func() error { return fmt.Errorf("unknown arguments %q", args) }
		}
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "podapp:", err)
		os.Exit(1)
	}
}

// patience is how long a client waits for an answer.
const patience = 2 * time.Second

// authority is what a pod knows the API server by.
const authority = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"

func get(url string) error {
	roots := x509.NewCertPool()
	if text, err := os.ReadFile(authority); err == nil {
		roots.AppendCertsFromPEM(text)
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
