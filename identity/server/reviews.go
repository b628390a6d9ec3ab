// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reviews counts the questions to the API server about tokens.
type reviews struct {
	results  *prometheus.CounterVec
	duration prometheus.Histogram
}

func newReviews() *reviews {
	r := &reviews{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_identity_token_reviews_total",
			Help: "Questions to the API server about tokens, by whether it vouched for the token, refused it, or did not answer.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "culvert_identity_token_review_duration_seconds",
			Help:    "How long the API server took to answer about tokens.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .1, .25, 1, 3},
		}),
	}
	for _, result := range []string{"vouched", "refused", "unavailable"} {
		r.results.WithLabelValues(result) // so that it starts at 0
	}
	return r
}

// answered counts a question that began then.
func (r *reviews) answered(began time.Time, vouched bool, err error) {
	r.duration.Observe(time.Since(began).Seconds())
	switch {
	case err != nil:
		r.results.WithLabelValues("unavailable").Inc()
	case vouched:
		r.results.WithLabelValues("vouched").Inc()
	default:
		r.results.WithLabelValues("refused").Inc()
	}
}

// Describe and Collect make a TokenReview a prometheus.Collector of what it asked.
func (r *TokenReview) Describe(out chan<- *prometheus.Desc) {
	r.asked.results.Describe(out)
	r.asked.duration.Describe(out)
}

// Collect is part of prometheus.Collector.
func (r *TokenReview) Collect(out chan<- prometheus.Metric) {
	r.asked.results.Collect(out)
	r.asked.duration.Collect(out)
}
