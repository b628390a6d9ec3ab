// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// tally is what a client prints, in JSON, for each second in which something ended.
type tally struct {
	Second int64  `json:"second"` // since 1970
	OK     int    `json:"ok"`
	Failed int    `json:"failed"`
	Error  string `json:"error,omitempty"` // the last one
}

// count adds one result, and prints a second's tally with the first result of another.
func (t *tally) count(err error) error {
	var printed error
	if now := time.Now().Unix(); now != t.Second {
		if t.OK+t.Failed > 0 {
			printed = json.NewEncoder(os.Stdout).Encode(t)
		}
		*t = tally{Second: now}
	}
	if err == nil {
		t.OK++
	} else {
		t.Failed++
		t.Error = err.Error()
	}
	return printed
}

// loadPause is between one answer and the next request.
const loadPause = 20 * time.Millisecond

// load asks for as long as it lives.
func load(urls []string) error {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	var t tally
	for i := 0; ; i++ {
		if err := t.count(ask(&client, urls[i%len(urls)])); err != nil {
			return err
		}
		time.Sleep(loadPause)
	}
}

func ask(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// holdPause is between one echo and the next word.
const holdPause = 100 * time.Millisecond

// hold talks for as long as it lives. A connection that breaks is one failure, and the
// next one takes its place.
func hold(address, word string) error {
	var t tally
	for {
		conn, err := net.DialTimeout("tcp", address, patience)
		for err == nil {
			if err = echo(conn, word); err == nil {
				err = t.count(nil)
				time.Sleep(holdPause)
			}
		}
		if conn != nil {
			conn.Close()
		}
		if err := t.count(err); err != nil {
			return err
		}
		time.Sleep(holdPause)
	}
}

func echo(conn net.Conn, word string) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	heard := make([]byte, len(word))
	if _, err := io.ReadFull(conn, heard); err != nil {
		return err
	}
	if string(heard) != word {
		return errors.New("the echo is another word")
	}
	return nil
}
