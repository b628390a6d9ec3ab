// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// The field's own load generators, each with its own server in the server's pod.
const (
	fortioPort = 8078
	fortioSize = 1024 // bytes of an answer's body
	iperfPort  = 5201
)

// anew is the cell with a connection for each request.
func (c cell) anew() cell {
	c.once = true
	return c
}

// fieldTools are where the programs of the field's rows are.
type fieldTools struct{ fortio, iperf string }

// findTools finds what the chosen rows need, before a lab is built. A fortio in PATH comes
// before the one that is built.
func findTools(ctx context.Context, o options) (t fieldTools, err error) {
	for _, r := range o.chosen() {
		switch r.name {
		case "fortio":
			if t.fortio, err = exec.LookPath("fortio"); err != nil {
				t.fortio, err = buildFortio(ctx)
			}
		case "iperf3":
			if t.iperf, err = exec.LookPath("iperf3"); err != nil {
				err = errors.New("row iperf3: the program iperf3 (Debian: iperf3) is not installed")
			}
		}
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

// buildFortio builds the version that bench/fortio/go.mod names.
func buildFortio(ctx context.Context) (string, error) {
	path, err := filepath.Abs(filepath.Join(apart, "..", "fortio"))
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "go", "-C", "fortio", "build", "-o", path, "fortio.org/fortio").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("row fortio: no fortio is in PATH, and it cannot be built: %w: %s", err, out)
	}
	return path, nil
}

// serve starts a server in the server's pod, unless it runs there.
func (p *peer) serve(ctx context.Context, name string, port uint16, argv ...string) (netip.AddrPort, error) {
	to := netip.AddrPortFrom(p.to.Addr(), port)
	if p.far.serving[name] {
		return to, nil
	}
	process, err := p.far.pod.Start(name, argv...)
	if err != nil {
		return to, err
	}
	if err := awaitListener(ctx, process, p.far, port); err != nil {
		return to, err
	}
	p.far.serving[name] = true
	return to, nil
}

// fortioReport is what we read of fortio's JSON.
type fortioReport struct {
	ActualQPS         float64
	RetCodes          map[string]int
	DurationHistogram struct {
		Count       int
		Percentiles []struct{ Percentile, Value float64 } // seconds
	}
}

// readFortio returns requests a second, their p99 in seconds, and how many there were. A
// run with any other answer than 200 has no numbers.
func readFortio(text []byte) (qps, p99 float64, count int, err error) {
	var r fortioReport
	if err := json.Unmarshal(text, &r); err != nil {
		return 0, 0, 0, fmt.Errorf("read fortio's JSON: %w", err)
	}
	count = r.DurationHistogram.Count
	if count == 0 || r.RetCodes["200"] != count || len(r.RetCodes) != 1 {
		return 0, 0, 0, fmt.Errorf("of fortio's %d requests not all were answered by 200: %v", count, r.RetCodes)
	}
	for _, p := range r.DurationHistogram.Percentiles {
		if p.Percentile == 99 {
			return r.ActualQPS, p.Value, count, nil
		}
	}
	return 0, 0, 0, errors.New("fortio's JSON has no p99")
}

// measureFortio asks for pages as fast as goes, as `fortio load -qps 0` does.
func measureFortio(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	to, err := p.serve(ctx, "fortio", fortioPort, m.tools.fortio, "server", "-http-port", strconv.Itoa(fortioPort),
		"-grpc-port", "disabled", "-tcp-port", "disabled", "-udp-port", "disabled", "-redirect-port", "disabled")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(m.keys.dir, "fortio.json")
	used, err := p.cost(func() error {
		_, err := p.near.pod.Run(ctx, m.tools.fortio, "load", "-quiet", "-c", strconv.Itoa(c.streams), "-qps", "0", "-t", m.duration.String(),
			"-keepalive="+strconv.FormatBool(!c.once), "-p", "50,99", "-json", file, fmt.Sprintf("http://%v/echo?size=%d", to, c.size))
		return err
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	qps, p99, count, err := readFortio(text)
	if err != nil {
		return nil, err
	}
	r := readings{mFortio: qps, mFortio99: p99 * 1e6}
	if len(p.proxies) > 0 {
		r[mFortioCPU] = micro(float64(used)) / float64(count)
	}
	return r, nil
}

// readIperf returns the bits a second that arrived.
func readIperf(text []byte) (float64, error) {
	var r struct {
		Error string
		End   struct {
			Received struct {
				Bytes float64
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return 0, fmt.Errorf("read iperf3's JSON: %w", err)
	}
	if r.Error != "" || r.End.Received.Bytes == 0 {
		return 0, fmt.Errorf("iperf3 moved nothing: %s", r.Error)
	}
	return r.End.Received.Rate, nil
}

// measureIperf is `iperf3 -c` with -P: whole seconds, one at least.
func measureIperf(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	to, err := p.serve(ctx, "iperf3", iperfPort, m.tools.iperf, "-s", "-p", strconv.Itoa(iperfPort))
	if err != nil {
		return nil, err
	}
	seconds := int(math.Ceil(m.duration.Seconds()))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds+15)*time.Second)
	defer cancel()
	text, err := p.near.pod.Run(ctx, m.tools.iperf, "-c", to.Addr().String(), "-p", strconv.Itoa(iperfPort),
		"-P", strconv.Itoa(c.streams), "-t", strconv.Itoa(seconds), "-J")
	if err != nil {
		return nil, err
	}
	rate, err := readIperf([]byte(text))
	return readings{mIperf: rate / 1e9}, err
}
