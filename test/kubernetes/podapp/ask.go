// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// askMany makes that many connections to an address, one every pause, whatever becomes of
// those before, and prints for each the first line of the answer, or in a word how there
// was none.
func askMany(times, pause, network, address string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	interval, err := time.ParseDuration(pause)
	if err != nil {
		return err
	}
	answers := make(chan string, n)
	for i := range n {
		if i > 0 {
			time.Sleep(interval)
		}
		go func() { answers <- askOnce(network, address) }()
	}
	for range n {
		fmt.Println(<-answers)
	}
	return nil
}

func askOnce(network, address string) string {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return word(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	answer, err := exchange(conn, network, address)
	if err != nil {
		return word(err)
	}
	return answer
}

// exchange returns the first line of the answer, before which there is the status if it
// is not 200.
func exchange(conn net.Conn, network, address string) (string, error) {
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		answer := make([]byte, 1500)
		n, err := conn.Read(answer)
		return string(answer[:n]), err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", address); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	line, _, _ := strings.Cut(string(body), "\n")
	if response.StatusCode != http.StatusOK {
		line = strings.TrimSpace(response.Status + " " + line)
	}
	return line, err
}

// word says how a connection failed, as its app sees it.
func word(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "reset"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}
