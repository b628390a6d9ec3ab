// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The functions here read one value of a flag. Their errors say what is wanted,
// and where it can be guessed what was meant.

// OneOf takes one of the words.
func OneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		last := len(words) - 1
		return "", fmt.Errorf("want %s or %s", strings.Join(words[:last], ", "), words[last])
	}
}

// Word takes text without spaces.
func Word(s string) (string, error) {
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return "", errors.New("there is a space in it")
	}
	return s, nil
}

// Level takes the name of a log level.
func Level(s string) (level slog.Level, err error) {
	word, err := OneOf("debug", "info", "warn", "error")(strings.ToLower(s))
	if err != nil {
		return slog.LevelInfo, err
	}
	return level, level.UnmarshalText([]byte(word))
}

// Duration takes one from least to most.
func Duration(least, most time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			return 0, fmt.Errorf("%s has no unit: want %s to %s%s", s, spell(least), spell(most), withUnit(s, least, most))
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("it is no duration: want %s to %s", spell(least), spell(most))
		}
		if d < least || d > most {
			return 0, fmt.Errorf("want %s to %s", spell(least), spell(most))
		}
		return d, nil
	}
}

// Size takes a number of bytes as Kubernetes writes it, from least to most.
func Size(least, most int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		wrong := fmt.Errorf("want %s to %s", bytes(least), bytes(most))
		for i, unit := range binary {
			digits, found := strings.CutSuffix(s, unit)
			if !found {
				continue
			}
			n, err := strconv.ParseUint(digits, 10, 32)
			if size := int64(n) << (10 * (len(binary) - i)); err == nil && n > 0 && size >= least && size <= most {
				return size, nil
			}
			return 0, wrong
		}
		if _, err := strconv.ParseUint(s, 10, 64); err == nil {
			return 0, fmt.Errorf("%s has no unit: %w", s, wrong)
		}
		return 0, wrong
	}
}

// binary are the units of sizes, the largest first.
var binary = []string{"Ti", "Gi", "Mi", "Ki"}

// bytes is a size in its largest unit.
func bytes(n int64) string {
	for i, unit := range binary {
		if size := int64(1) << (10 * (len(binary) - i)); n >= size && n%size == 0 {
			return strconv.FormatInt(n/size, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// withUnit says what a number could be from least to most.
func withUnit(number string, least, most time.Duration) string {
	var fit []string
	for _, unit := range []string{"ms", "s", "m", "h"} {
		if d, err := time.ParseDuration(number + unit); err == nil && d >= least && d <= most {
			fit = append(fit, number+unit)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	return ", as " + strings.Join(fit, " or ")
}

// spell is a duration without units that are zero.
func spell(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}

// Prefix takes a CIDR.
func Prefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.WithZone("").Unmap()
		return netip.Prefix{}, fmt.Errorf("it is an address and a prefix is needed: did you mean %v/%d?", addr, addr.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is no CIDR, as 10.77.0.0/16 or fd77::/32", s)
	case p.Addr().Is4In6() && p.Bits() < 96:
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 written as IPv6, and shorter than /96", s)
	case p.Addr().Is4In6():
		v4 := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 written as IPv6: did you mean %v?", s, v4)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits behind its prefix: did you mean %v or %v/%d?", s, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p, nil
}

// Steerable takes a CIDR that leaves something to steer.
func Steerable(s string) (netip.Prefix, error) {
	p, err := Prefix(s)
	if err == nil && p.Bits() == 0 {
		err = fmt.Errorf("%v is every address: nothing would be steered", p)
	}
	return p, err
}

// Port takes a port that something can listen on.
func Port(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strings.HasPrefix(s, "0") {
		return 0, fmt.Errorf("%q is not a port: want 1 to 65535", s)
	}
	return uint16(n), nil
}

// Path takes a path and makes it absolute.
func Path(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", errors.New("a path has no NUL byte")
	}
	return filepath.Abs(s)
}

// TrustDomain takes the name of a trust domain, not an ID in it.
func TrustDomain(s string) (spiffeid.TrustDomain, error) {
	name, isID := strings.CutPrefix(s, "spiffe://")
	name, _, _ = strings.Cut(name, "/")
	td, err := spiffeid.TrustDomainFromString(name)
	switch {
	case err != nil || name != s && !isID:
		return spiffeid.TrustDomain{}, errors.New("want a name of lower-case letters, digits, dots, dashes and underscores, as cluster.local")
	case isID:
		return spiffeid.TrustDomain{}, fmt.Errorf("want the name alone: did you mean %s?", name)
	case strings.HasPrefix(name, ".") || strings.HasSuffix(name, "."):
		return spiffeid.TrustDomain{}, fmt.Errorf("a dot at its end or begin makes it another domain: did you mean %s?", strings.Trim(name, "."))
	}
	return td, nil
}
