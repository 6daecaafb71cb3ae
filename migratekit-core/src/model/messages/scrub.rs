//! Taking technical words out of text that must show all the same.

/// Words that never show, in lower case.
const FORBIDDEN: [&str; 14] = [
    "virt-v2v",
    "virtio",
    "viostor",
    "netkvm",
    "nbdkit",
    "nbd",
    "vddk",
    "qemu",
    "libvirt",
    "guestfs",
    "linstor",
    "volume daemon",
    ".iso",
    "/dev/",
];

/// By these a script's or a program's name is known.
const SCRIPTS: [&str; 6] = [".sh", ".py", ".ps1", ".bat", ".cmd", ".exe"];

/// What stands in the place of a word that does not show.
const HIDDEN: &str = "(detail in the log)";

/// The longest text that shows, in characters: two lines of a wide terminal.
const LONGEST: usize = 240;

/// Whether nothing in `text` must be hidden: no forbidden word, no path, no script's name, no control sign.
#[must_use]
pub fn is_clean(text: &str) -> bool {
    let low = text.to_lowercase();
    !text.chars().any(unshown) && !FORBIDDEN.iter().any(|word| low.contains(word)) && !low.split_whitespace().any(is_technical)
}

/// Signs that end, hide or reorder text.
fn unshown(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{ad}')
}

/// A path, a script's name: what is not said to people.
fn is_technical(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/' && c != '\\');
    let path = bare.starts_with('/') && bare.len() > 1 || bare.contains("\\") || bare.matches('/').count() > 1;
    path || SCRIPTS.iter().any(|end| word.contains(end))
}

/// `text` as people may see it: on one line, not long, each technical word hidden. A text that stays unclean even so is hidden whole.
#[must_use]
pub fn scrub(text: &str) -> String {
    let shown: String =
        text.chars().filter_map(|c| if c.is_whitespace() { Some(' ') } else { (!unshown(c)).then_some(c) }).take(LONGEST).collect();
    let mut words: Vec<&str> = Vec::new();
    for word in shown.split_whitespace() {
        let kept = if is_clean(word) { word } else { HIDDEN };
        // One sign for a run of hidden words.
        if kept != HIDDEN || words.last() != Some(&HIDDEN) {
            words.push(kept);
        }
    }
    let joined = words.join(" ");
    if is_clean(&joined) { joined } else { HIDDEN.to_owned() }
}
