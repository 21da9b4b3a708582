//! The reference of the C interface, made from the header: a manual page for each function, and one page with everything.

/// What the header says of one name.
pub struct Item<'a> {
    pub name: &'a str,
    /// Its declaration, as it is.
    pub code: String,
    /// Paragraphs; the last may be about threads, forks and errors.
    pub text: Vec<String>,
}

impl Item<'_> {
    fn is_function(&self) -> bool {
        self.code.contains('(') && !self.code.starts_with("typedef") && !self.code.starts_with('#')
    }

    /// What a function's name is about: links, pools and so on.
    fn subject(&self) -> &str {
        self.name.split('_').nth(1).unwrap_or_default()
    }
}

/// All declarations with their comments, in order.
pub fn items(header: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut lines = header.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("//") {
            comment.push(text.trim());
            continue;
        }
        let text = paragraphs(&std::mem::take(&mut comment));
        let declares = line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains("busway_");
        if text.is_empty() || !declares && !line.starts_with("#define BUSWAY_") {
            continue;
        }
        let mut code = line.to_owned();
        let ends = |code: &str| match code.contains('{') {
            true => code.lines().last().is_some_and(|last| last.starts_with('}')),
            false => code.starts_with('#') || code.ends_with(';'),
        };
        while !ends(&code) {
            let Some(line) = lines.next() else { break };
            code.push('\n');
            code.push_str(line);
        }
        items.push(Item { name: name(line), code, text });
    }
    items
}

/// The name that a line declares: the first of ours that is not the type of a result.
fn name(line: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let before = line.split('(').next().unwrap_or(line).trim_end_matches(['{', ';', ' ']);
    let mut words = before.split(|c| !is_part(c)).filter(|word| word.to_ascii_lowercase().starts_with("busway_"));
    match line.starts_with('#') {
        true => words.next(),
        false => words.next_back(),
    }
    .unwrap_or_default()
}

fn paragraphs(lines: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut begins = true;
    for line in lines {
        let notes = is_note(line);
        if line.is_empty() {
            begins = true;
            continue;
        }
        match all.last_mut() {
            Some(last) if !begins && !notes => {
                last.push(' ');
                last.push_str(line);
            }
            _ => all.push((*line).to_owned()),
        }
        begins = false;
    }
    all
}

/// Everything on one page, in Markdown.
pub fn markdown(items: &[Item<'_>]) -> String {
    let mut page = "# The C interface of Busway\n\nMade from busway.h. busway(7) is the overview.\n".to_owned();
    let mut section = |title: &str, chosen: &[&Item<'_>]| {
        page += &format!("\n## {title}\n");
        for item in chosen {
            page += &format!("\n### {}\n\n```c\n{}\n```\n\n{}\n", item.name, item.code, item.text.join("\n\n"));
        }
    };
    let (functions, others): (Vec<_>, Vec<_>) = items.iter().partition(|item| item.is_function());
    let (constants, types): (Vec<_>, Vec<_>) = others.into_iter().partition(|item| item.code.starts_with('#'));
    let mut subjects: Vec<&str> = Vec::new();
    for item in &functions {
        // As often as a subject comes back, it has one section.
        if !subjects.contains(&item.subject()) {
            subjects.push(item.subject());
        }
    }
    for subject in subjects {
        let chosen: Vec<_> = functions.iter().copied().filter(|item| item.subject() == subject).collect();
        section(&format!("busway_{subject}"), &chosen);
    }
    section("Types", &types);
    section("Constants", &constants);
    page
}

/// The manual pages of all functions: file names and what is in them.
pub fn manuals(items: &[Item<'_>], version: &str) -> Vec<(String, String)> {
    let page = |item: &Item<'_>| {
        let notes = item.text.iter().position(|text| is_note(text)).unwrap_or(item.text.len());
        let what = item.text[0].split(". ").next().unwrap_or_default().trim_end_matches('.').replace('`', "");
        let mut page = format!(".TH {} 3 \"\" \"busway {version}\" \"Busway\"\n.nh\n.ad l\n", item.name);
        page += &format!(".SH NAME\n{} \\- {}\n", item.name, plain(&lower(&what)));
        page += &format!(".SH SYNOPSIS\n.nf\n#include <busway.h>\n.PP\n{}\n.fi\n", plain(&item.code));
        for (title, paragraphs) in [("DESCRIPTION", &item.text[..notes]), ("NOTES", &item.text[notes..])] {
            if !paragraphs.is_empty() {
                page += &format!(".SH {title}\n");
                paragraphs.iter().for_each(|text| page += &format!(".PP\n{}", roff(text)));
            }
        }
        page += ".SH SEE ALSO\n.BR busway (7)\n";
        (format!("{}.3", item.name), page)
    };
    items.iter().filter(|item| item.is_function()).map(page).collect()
}

fn is_note(text: &str) -> bool {
    ["Threads", "Fork:", "Errors:"].iter().any(|note| text.starts_with(note))
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// A text as roff has it, with its arguments and our names in other letters.
fn roff(text: &str) -> String {
    let mut line = String::new();
    for (i, part) in text.split('`').enumerate() {
        match i % 2 {
            1 => line += &format!("\\fI{}\\fR", plain(part)),
            _ => line += &plain(part),
        }
    }
    line.push('\n');
    line
}

/// With what roff takes for commands escaped.
fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines: Vec<_> = escaped
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.into() })
        .collect();
    lines.join("\n")
}
