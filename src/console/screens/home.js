export const title = 'Home';
export async function show(main) { main.append(Object.assign(document.createElement('h1'), { textContent: 'Home' })); }
