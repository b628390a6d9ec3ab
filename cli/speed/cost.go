// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// cost is what programs have used so far, and have.
type cost struct{ cpu, memory float64 }

const metricsMost = 32 << 20 // of a page

// costs adds up those of all programs beside.
func (p Plan) costs(ctx context.Context) (all cost, err error) {
	for _, url := range p.Beside {
		one, err := costOf(ctx, url)
		if err != nil {
			return all, err
		}
		all.cpu += one.cpu
		all.memory += one.memory
	}
	return all, nil
}

// costOf reads the metrics of a program: those that all with Prometheus' client have.
func costOf(ctx context.Context, url string) (c cost, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return c, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return c, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return c, fmt.Errorf("%s: status %s", url, response.Status)
	}
	found := 0
	lines := bufio.NewScanner(io.LimitReader(response.Body, metricsMost))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, text, ok := strings.Cut(lines.Text(), " ")
		to := map[string]*float64{"process_cpu_seconds_total": &c.cpu, "process_resident_memory_bytes": &c.memory}[name]
		if !ok || to == nil {
			continue
		}
		if *to, err = strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
			return c, fmt.Errorf("%s: %s %q", url, name, text)
		}
		found++
	}
	if err := lines.Err(); err != nil {
		return c, fmt.Errorf("%s: %w", url, err)
	}
	if found != 2 {
		return c, fmt.Errorf("%s: no metrics of a process", url)
	}
	return c, nil
}
