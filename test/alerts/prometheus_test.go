// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

const interval = 30 * time.Second // between scrapes, and evaluations

var ruleFiles = []string{"../../deploy/alerts/culvert-identity.rules.yaml", "../../deploy/alerts/culvert-node.rules.yaml"}

// prometheus scrapes real programs and evaluates the real rules. Its clock is its own:
// from one scrape to the next it goes on by interval, in whatever time that takes. What
// the programs say is not changed, but for their clocks, which go with it.
type prometheus struct {
	t        *testing.T
	now      time.Time
	ahead    time.Duration // of the clocks of the programs
	pace     time.Duration // that an interval takes in real time at least
	targets  []target
	series   map[string]*series
	families string // the begin of their names
	rules    []rulefmt.Rule
	engine   *promql.Engine
	parser   parser.Parser
	active   map[string]*alert
	pending  map[string]bool // alerts that were, by name and severity, before they fired
	fired    map[string]bool
}

// target is a program that is scraped.
type target struct {
	job, instance string
	scrape        func() ([]byte, error)
}

// series is what was scraped of one.
type series struct {
	labels  labels.Labels
	samples []chunks.Sample
	target  string
}

// alert is one that is pending or firing.
type alert struct {
	labels string
	since  time.Time
	firing bool
}

func readRules(t *testing.T) (rules []rulefmt.Rule) {
	t.Helper()
	for _, file := range ruleFiles {
		groups, problems := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
		for _, problem := range problems {
			t.Fatal(problem)
		}
		for _, group := range groups.Groups {
			rules = append(rules, group.Rules...)
		}
	}
	if len(rules) < 30 {
		t.Fatalf("%d rules", len(rules))
	}
	return rules
}

func newPrometheus(t *testing.T, targets ...target) *prometheus {
	p := parser.NewParser(parser.Options{})
	return &prometheus{
		t: t, now: time.Now(), targets: targets, series: map[string]*series{}, families: "culvert_", rules: readRules(t), parser: p,
		engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 1 << 20, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: p}),
		active: map[string]*alert{}, pending: map[string]bool{}, fired: map[string]bool{},
	}
}

// leaveOut drops alerts on programs that a story does not have.
func (p *prometheus) leaveOut(names ...string) {
	p.rules = slices.DeleteFunc(p.rules, func(r rulefmt.Rule) bool { return slices.Contains(names, r.Alert) })
}

// page reads a program's metrics by HTTP.
func page(address string) func() ([]byte, error) {
	return func() ([]byte, error) {
		response, err := (&http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + address + "/metrics")
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %d", response.StatusCode)
		}
		return io.ReadAll(response.Body)
	}
}

// run scrapes and evaluates for a while of its clock.
func (p *prometheus) run(d time.Duration) {
	p.t.Helper()
	for end := p.now.Add(d); !p.now.After(end); p.now = p.now.Add(interval) {
		time.Sleep(p.pace)
		for _, target := range p.targets {
			p.scrape(target)
		}
		for _, rule := range p.rules {
			p.evaluate(rule)
		}
	}
}

// jump sets the clock: certificates grow older, programs do not notice.
func (p *prometheus) jump(to time.Time) { p.now = to }

// until runs until an alert fires, for a while at most.
func (p *prometheus) until(atMost time.Duration, names ...string) {
	p.t.Helper()
	missing := func() (missing []string) {
		for _, name := range names {
			if !p.fired[name] {
				missing = append(missing, name)
			}
		}
		return missing
	}
	for end := p.now.Add(atMost); p.now.Before(end) && missing() != nil; {
		p.run(0)
	}
	if names := missing(); names != nil {
		p.t.Errorf("not fired within %v: %v; fired: %v; active: %v", atMost, names, slices.Sorted(maps.Keys(p.fired)), p.states())
	}
}

func (p *prometheus) states() (states []string) {
	for _, a := range p.active {
		states = append(states, a.labels)
	}
	return states
}

func (p *prometheus) scrape(target target) {
	p.t.Helper()
	text, err := target.scrape()
	text = only(text, p.families)
	up := 1.0
	if err != nil {
		up, text = 0, nil
	}
	families := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := families.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		p.t.Fatalf("metrics of %s: %v\n%s", target.instance, err, text)
	}
	seen := map[string]bool{}
	now := model.TimeFromUnixNano(p.now.UnixNano())
	for _, family := range parsed {
		samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: now}, family)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, s := range samples {
			p.put(target, s.Metric, float64(s.Value), seen)
		}
	}
	p.put(target, model.Metric{model.MetricNameLabel: "up"}, up, seen)
	for _, s := range p.series {
		if s.target == target.instance && !seen[s.labels.String()] && len(s.samples) > 0 && !value.IsStaleNaN(s.samples[len(s.samples)-1].F()) {
			s.samples = append(s.samples, sample{p.now.UnixMilli(), math.Float64frombits(value.StaleNaN)})
		}
	}
}

// only keeps the families that begin so: the rules are about these.
func only(text []byte, prefix string) []byte {
	var kept bytes.Buffer
	for line := range bytes.Lines(text) {
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if bytes.HasPrefix(name, []byte(prefix)) {
			kept.Write(line)
		}
	}
	return kept.Bytes()
}

func (p *prometheus) put(target target, metric model.Metric, v float64, seen map[string]bool) {
	builder := labels.NewBuilder(labels.EmptyLabels())
	for name, text := range metric {
		builder.Set(string(name), string(text))
	}
	builder.Set("job", target.job)
	builder.Set("instance", target.instance)
	node, _, _ := strings.Cut(target.instance, ":")
	builder.Set("node", node) // as the chart's PodMonitor has it
	name := string(metric[model.MetricNameLabel])
	if name == "culvert_time_seconds" || name == "culvert_identity_time_seconds" {
		v += time.Until(p.now.Add(p.ahead)).Seconds()
	}
	set := builder.Labels()
	key := set.String()
	seen[key] = true
	if p.series[key] == nil {
		p.series[key] = &series{labels: set, target: target.instance}
	}
	p.series[key].samples = append(p.series[key].samples, sample{p.now.UnixMilli(), v})
}

// evaluate is what Prometheus does with a rule: each series of its expression is an
// alert, pending until it was there for long enough.
func (p *prometheus) evaluate(rule rulefmt.Rule) {
	p.t.Helper()
	query, err := p.engine.NewInstantQuery(context.Background(), p, nil, rule.Expr, p.now)
	if err != nil {
		p.t.Fatalf("%s: %v", rule.Alert, err)
	}
	defer query.Close()
	vector, err := query.Exec(context.Background()).Vector()
	if err != nil {
		p.t.Fatalf("%s: %v", rule.Alert, err)
	}
	name := rule.Alert + "/" + rule.Labels["severity"]
	there := map[string]bool{}
	for _, s := range vector {
		key := name + s.Metric.String()
		there[key] = true
		a := p.active[key]
		if a == nil {
			a = &alert{labels: key, since: p.now}
			p.active[key] = a
		}
		a.firing = p.now.Sub(a.since) >= time.Duration(rule.For)
		if a.firing {
			p.fired[name] = true
		} else {
			p.pending[name] = true
		}
	}
	for key := range p.active {
		if strings.HasPrefix(key, name+"{") && !there[key] {
			delete(p.active, key)
		}
	}
}

// Querier makes prometheus a storage.Queryable.
func (p *prometheus) Querier(from, to int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		found := &found{SeriesSet: storage.EmptySeriesSet(), at: -1}
		for _, key := range slices.Sorted(maps.Keys(p.series)) {
			s := p.series[key]
			if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
				found.all = append(found.all, storage.NewListSeries(s.labels, s.samples))
			}
		}
		return found
	}}, nil
}

// found is a storage.SeriesSet.
type found struct {
	storage.SeriesSet // of nothing: no error, no warnings
	all               []storage.Series
	at                int
}

func (f *found) Next() bool         { f.at++; return f.at < len(f.all) }
func (f *found) At() storage.Series { return f.all[f.at] }

// sample is one number.
type sample struct {
	t int64
	f float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
