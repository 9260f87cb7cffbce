package console

// What the tests of this package see of it.

// Sample takes one sample.
func (s *Series) Sample() { s.sample() }

// Read returns the points of a series.
func (s *Series) Read(name string) []*float64 {
	for _, one := range s.read().Series {
		if one.Name == name {
			return one.Points
		}
	}
	return nil
}

// Names returns the names of all series.
func (s *Series) Names() (names []string) {
	for _, one := range s.read().Series {
		names = append(names, one.Name)
	}
	return names
}
