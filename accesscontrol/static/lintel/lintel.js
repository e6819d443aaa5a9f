// Small helpers for every page. Each page works without them.
import "./live.js";
import "./forms.js";
import "./audit.js";
