// SPDX-License-Identifier: Apache-2.0

package loglevel

import (
	"bytes"
	"log/slog"
	"testing"
)

// levels are those of a log that text gets.
func levels(text *bytes.Buffer) (*Levels, *slog.Logger) {
	rest := new(slog.LevelVar)
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := slog.New(slog.NewTextHandler(text, &slog.HandlerOptions{Level: rest, ReplaceAttr: drop}))
	return New(log, rest), log
}

func TestAScopeLogsFromItsOwnLevelOnAndSaysItsName(t *testing.T) {
	var text bytes.Buffer
	l, unscoped := levels(&text)
	certs, pods, access := l.Logger(Certs).With("identity", "a"), l.Logger(Pods).WithGroup("g"), l.Logger(Access)
	if err := l.Set("certs=debug,pods=error"); err != nil {
		t.Fatal(err)
	}
	for _, log := range []*slog.Logger{certs, pods, access, unscoped} {
		log.Debug("fine")
		log.Warn("rough")
	}
	want := `level=DEBUG msg=fine scope=certs identity=a
level=WARN msg=rough scope=certs identity=a
level=WARN msg=rough
level=WARN msg=rough
`
	if text.String() != want {
		t.Errorf("%s\nwant\n%s", text.String(), want)
	}
}

func TestALevelAloneIsForAllThatAreNotNamed(t *testing.T) {
	l, _ := levels(new(bytes.Buffer))
	all := func(rest, others, certs string) string {
		return "level " + rest + "\naccess " + others + "\ncerts " + certs + "\nexport " + others + "\npods " + others +
			"\nreport " + others + "\nsource " + others + "\nztunnel " + others + "\n"
	}
	for _, step := range []struct{ set, want string }{
		{"certs=debug", all("info", "info", "debug")},
		{"certs:error,warn", all("warn", "warn", "error")},
		{"Error", all("error", "error", "error")},
	} {
		if err := l.Set(step.set); err != nil || l.String() != step.want {
			t.Errorf("%s: %v\n%s", step.set, err, l)
		}
	}
	if l.Reset(); l.String() != all("info", "info", "info") {
		t.Errorf("reset:\n%s", l)
	}
}

func TestAWrongTextNamesTheScopesOrLevelsAndChangesNothing(t *testing.T) {
	l, _ := levels(new(bytes.Buffer))
	before := l.String()
	for text, want := range map[string]string{
		"":                       `level "": want debug, info, warn or error`,
		"loud":                   `level "loud": want debug, info, warn or error`,
		"info+2":                 `level "info+2": want debug, info, warn or error`,
		"certs=loud":             `scope "certs": level "loud": want debug, info, warn or error`,
		"error,certs":            `level "certs": want debug, info, warn or error`,
		"error,crets=debug":      `scope "crets": want access, certs, export, pods, report, source or ztunnel`,
		"=debug":                 `scope "": want access, certs, export, pods, report, source or ztunnel`,
		"certs=debug,certs=info": `scope "certs" is named twice`,
		"debug,info":             "there is more than one level for all",
		"debug,":                 `level "": want debug, info, warn or error`,
	} {
		if err := l.Set(text); err == nil || err.Error() != want || l.String() != before {
			t.Errorf("%q: %v, want %s\n%s", text, err, want, l)
		}
	}
}
