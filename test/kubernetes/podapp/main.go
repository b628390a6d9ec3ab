// SPDX-License-Identifier: Apache-2.0

// Command podapp is what test pods run. Without arguments it answers each HTTP request
// at port 8080 with the names of its node and its pod; "podapp get URL" prints what a URL
// answers, for kubectl exec.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	do := serve
	if len(os.Args) == 3 && os.Args[1] == "get" {
		do = get
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "podapp:", err)
		os.Exit(1)
	}
}

func serve() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, os.Getenv("NODE_NAME"), name)
	}))
}

func get() error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(os.Args[2])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
