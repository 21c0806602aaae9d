// On a phone each row of a table is a card (admin.css): its cells say which column they belong to.
document.addEventListener("DOMContentLoaded", () => {
    for (const table of document.querySelectorAll("#result_list, .outbox-cards")) {
        const headers = [...table.querySelectorAll("thead th")];
        const labels = headers.map((header) =>
            header.querySelector(".visually-hidden, input") ? "" : (header.querySelector(".text") ?? header).textContent.trim());
        for (const row of table.tBodies[0]?.rows ?? []) {
            [...row.cells].forEach((cell, column) => {
                if (labels[column] && cell.colSpan === 1) cell.dataset.label = labels[column];
            });
        }
    }
    // Django names its search box by an image only, in English.
    const button = document.querySelector("#changelist-search input[type=submit]");
    if (button) document.getElementById("searchbar")?.setAttribute("aria-label", button.value);
});
