// All that a page needs which only wants its views, errors and vitals tracked.
tracker.init(settings.tracker);
