// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// lifetime is a flag whose value is a duration that may be days or years, as 30d, 10y
// or 1h30m.
type lifetime time.Duration

var calendar = regexp.MustCompile(`^([0-9]{1,6})(d|w|y)$`)

// Set, and what follows, is part of pflag.Value.
func (l *lifetime) Set(s string) error {
	d, err := time.ParseDuration(s)
	if parts := calendar.FindStringSubmatch(s); parts != nil {
		n, _ := strconv.Atoi(parts[1]) // digits, and few
		d, err = time.Duration(n)*map[string]time.Duration{"d": day, "w": 7 * day, "y": 365 * day}[parts[2]], nil
	}
	if _, numeric := strconv.ParseFloat(s, 64); numeric == nil {
		return fmt.Errorf("%s has no unit: want %sd or %sh, for instance", s, s, s)
	}
	const most = 100 * 365 * day
	switch {
	case err != nil:
		return errors.New("want a duration as 30d, 10y or 1h30m")
	case d <= 0 || d > most:
		return errors.New("want more than nothing, and 100y at most")
	}
	*l = lifetime(d)
	return nil
}

func (l *lifetime) String() string {
	if *l == 0 {
		return ""
	}
	return long(time.Duration(*l))
}

func (l *lifetime) Type() string { return "duration" }

// interval is the time between two looks: it is no load for those who are looked at.
type interval struct{ lifetime }

const leastInterval = 100 * time.Millisecond

func (i *interval) Set(s string) error {
	var l lifetime
	if err := l.Set(s); err != nil {
		return err
	}
	if time.Duration(l) < leastInterval {
		return fmt.Errorf("want %v or more", leastInterval)
	}
	i.lifetime = l
	return nil
}
