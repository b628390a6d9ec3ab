// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

// panel is what the tests need to know of one.
type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource struct{ Type, UID string }
	GridPos    struct{ X, Y, W, H int }
	Targets    []struct {
		RefID, Expr, LegendFormat string
		Datasource                struct{ UID string }
	}
}

type board struct {
	UID, Title    string
	SchemaVersion int
	Panels        []panel
	Templating    struct {
		List []struct {
			Name, Type, AllValue string
			Query                json.RawMessage
		}
	}
}

func readBoards(t *testing.T) map[string]board {
	t.Helper()
	files, err := filepath.Glob("../../deploy/dashboards/*.json")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	boards := map[string]board{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var b board
		if err := json.Unmarshal(text, &b); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if want := strings.TrimSuffix(filepath.Base(file), ".json"); b.UID != want {
			t.Errorf("%s: uid %q; want %s", file, b.UID, want)
		}
		boards[b.UID] = b
	}
	return boards
}

// Grafana's own schema, by its strict decoder, and what that does not know.
func TestDashboardsAreWhatGrafanaReads(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	for name, b := range readBoards(t) {
		text, err := os.ReadFile(filepath.Join("../../deploy/dashboards", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		//lint:ignore SA1019 the sidecar of Grafana's chart reads files of this schema
		var d dashboard.Dashboard
		for _, err := range []error{d.UnmarshalJSONStrict(text), d.Validate()} {
			if err != nil && err.Error() != "" { // an empty list of errors is none
				t.Errorf("%s: %v", name, err)
			}
		}
		ids := map[int]bool{}
		cells := map[[2]int]string{}
		for _, p := range b.Panels {
			if ids[p.ID] {
				t.Errorf("%s: two panels have the id %d", name, p.ID)
			}
			ids[p.ID] = true
			for x := range p.GridPos.W {
				for y := range p.GridPos.H {
					cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
					if cells[cell] != "" || cell[0] > 23 {
						t.Errorf("%s: %q lies over %q, or beyond the right edge", name, p.Title, cells[cell])
					}
					cells[cell] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
				t.Errorf("%s: %q has %d queries, of the data source %q", name, p.Title, len(p.Targets), p.Datasource.UID)
			}
			for _, q := range p.Targets {
				if q.Datasource.UID != "${datasource}" {
					t.Errorf("%s: %q asks the data source %q", name, p.Title, q.Datasource.UID)
				}
			}
		}
	}
}

// fromGrafana has a query as Grafana sends it, with all values of each variable.
func fromGrafana(t *testing.T, query string, variables map[string]bool) string {
	return regexp.MustCompile(`\$\w+`).ReplaceAllStringFunc(query, func(name string) string {
		switch name {
		case "$__rate_interval", "$__range":
			return "5m"
		}
		if !variables[name[1:]] {
			t.Errorf("no variable %s, in %s", name, query)
		}
		return ".*"
	})
}

// busyMesh is a Prometheus that has scraped all that Culvert exposes, for ten minutes.
func busyMesh(t *testing.T) *prometheus {
	f := newFiles(t)
	ca := newAuthority(t, f, "ca", "-ttl", "24h", "-ledger", filepath.Join(t.TempDir(), "ledger"), "-ledger-checkpoints", t.TempDir())
	eventually(t, "the CA is ready", ca.ready)
	n := newNode(t, f, ca, nil)
	n.served(t)
	refused := newNode(t, newFiles(t), ca, func(c *certs.ClientConfig) { c.RootFile = filepath.Join(ca.ca, "root.pem") })
	eventually(t, "a stranger is refused", func() bool { return strings.HasPrefix(string(refused.Standing().Reason), "token_") })
	a, in := newAgent(t, "node1"), newInstaller(t)
	a.busy()
	p := newPrometheus(t, ca.target(), a.target(), in.target("node1"))
	p.families, p.rules = "", nil
	p.run(5 * time.Minute)
	a.busy()
	p.run(5 * time.Minute)
	return p
}

// Every expression of the dashboards and of the documents is asked of a Prometheus that
// has all that Culvert's programs expose: what they name exists, with these labels and
// these values.
func TestEveryQueryFindsSomething(t *testing.T) {
	p := busyMesh(t)
	p.now = p.now.Add(-interval) // to the last scrape
	for name, b := range readBoards(t) {
		variables := map[string]bool{}
		for _, v := range b.Templating.List {
			variables[v.Name] = true
			if v.Type == "query" {
				p.hasValues(t, name, string(v.Query), variables)
			}
		}
		for _, panel := range b.Panels {
			for _, q := range panel.Targets {
				p.finds(t, name+": "+panel.Title, fromGrafana(t, q.Expr, variables), q.LegendFormat)
			}
		}
	}
	documented := 0
	files, _ := filepath.Glob("../../docs/*.md")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			documented++
			p.finds(t, file, block[1], "")
		}
	}
	if documented < 8 {
		t.Errorf("%d queries in the documents", documented)
	}
}

// hasValues asks what Grafana asks for the values of a variable.
func (p *prometheus) hasValues(t *testing.T, where, query string, variables map[string]bool) {
	t.Helper()
	var q struct{ Query string }
	if err := json.Unmarshal([]byte(query), &q); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	parts := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(q.Query)
	if parts == nil {
		t.Fatalf("%s: variable %s", where, q.Query)
	}
	p.finds(t, where, fmt.Sprintf("count by (%s) (%s)", parts[2], fromGrafana(t, parts[1], variables)), "")
}

// finds wants an answer to a query, and labels that it names in what it asks.
func (p *prometheus) finds(t *testing.T, where, query, legend string) {
	t.Helper()
	expr, err := p.parser.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return
	}
	p.knows(t, where, query, expr)
	asked, err := p.engine.NewInstantQuery(context.Background(), p, nil, query, p.now)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return
	}
	defer asked.Close()
	result := asked.Exec(context.Background())
	vector, err := result.Vector()
	if err != nil || len(vector) == 0 {
		t.Errorf("%s: nothing answers %s: %v", where, query, err)
		return
	}
	for _, warning := range result.Warnings.AsErrors() {
		if !strings.Contains(warning.Error(), annotations.PossibleNonCounterInfo.Error()) {
			t.Errorf("%s: %s: %v", where, query, warning)
		}
	}
	for _, name := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(legend, -1) {
		if !vector[0].Metric.Has(name[1]) && name[1] != "target" {
			t.Errorf("%s: the legend names %s, which %s does not have: %v", where, name[1], query, vector[0].Metric)
		}
	}
}

// knows wants each selector to find series by itself, and these to have the labels that the
// query groups and joins them by.
func (p *prometheus) knows(t *testing.T, where, query string, expr parser.Expr) {
	t.Helper()
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		names := p.labelsOf(selector.LabelMatchers)
		if len(names) == 0 {
			t.Errorf("%s: there is no %s", where, selector)
		}
		for _, above := range path {
			for _, label := range grouping(above) {
				if len(names) > 0 && !names[label] {
					t.Errorf("%s: %s has no label %s, in %s", where, selector, label, query)
				}
			}
		}
		return nil
	})
}

func grouping(node parser.Node) []string {
	switch e := node.(type) {
	case *parser.AggregateExpr:
		if !e.Without {
			return e.Grouping
		}
	case *parser.BinaryExpr:
		if e.VectorMatching != nil && e.VectorMatching.On {
			return e.VectorMatching.MatchingLabels
		}
	}
	return nil
}

// labelsOf are the names of labels of all series that matchers select.
func (p *prometheus) labelsOf(matchers []*labels.Matcher) map[string]bool {
	names := map[string]bool{}
	for _, s := range p.series {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			for name := range maps.Keys(s.labels.Map()) {
				names[name] = true
			}
		}
	}
	return names
}
